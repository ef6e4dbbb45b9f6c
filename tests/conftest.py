"""What every test starts from."""

import signal


def pytest_configure() -> None:
  """Takes Ctrl-C, which a shell's background job is started without."""
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
