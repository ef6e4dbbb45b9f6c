"""One HTTP request, bounded in time and in bytes.

The standard library's client on a socket of our own. The kept ones either
bound each read rather than the whole response, so that a server that drips
holds them for good (requests, urllib3, httpx, openai), or bring eight packages
for one POST (aiohttp). Redirects are not followed, and proxies that the
environment names are not used.
"""

import http.client
import io
import socket
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

# What a connection that breaks, or a response that is none, raises; http.client
# lets int() and read() complain of lengths.
BROKEN = (OSError, http.client.HTTPException, ValueError)


class TooLarge(Exception):
  """More bytes came than may."""


class Response(NamedTuple):
  """Status, the header Retry-After or "", and the body."""

  status: int
  retry_after: str
  body: bytes


def post(
  url: urllib.parse.SplitResult,
  headers: Mapping[str, str],
  body: bytes,
  *,
  timeout_secs: float,
  max_bytes: int,
) -> Response:
  """The response to one POST of JSON.

  Args:
    url: http or https.
    headers: Besides those that JSON asks for.
    body: JSON.
    timeout_secs: From connecting to the last byte. What the resolver takes
      for the host's name is not bounded here.
    max_bytes: Of the response, its headers counted.

  Raises:
    TimeoutError: When the time is over.
    TooLarge: When more bytes came.
    OSError, http.client.HTTPException, ValueError: If the connection breaks
      before the response is whole, or it is not HTTP.
  """
  headers = {
    "Host": url.netloc,
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    **headers,
  }
  deadline = time.monotonic() + timeout_secs
  with _connected(url, deadline) as sock:
    connection = http.client.HTTPConnection(url.hostname)
    connection.sock = _Wire(sock, deadline, max_bytes)
    connection.request("POST", url.path, body, headers)
    response = connection.getresponse()
    # With a bound: a read makes room for all that a response says it has.
    received = response.read(max_bytes)
    is_told = response.chunked or response.headers.get("Content-Length")
    if not received and not is_told:  # The end may have come in the headers.
      raise http.client.IncompleteRead(received)
    if response.length:
      raise http.client.IncompleteRead(received, response.length)
    return Response(
      response.status, response.headers.get("Retry-After", ""), received
    )


def _connected(url: urllib.parse.SplitResult, deadline: float) -> socket.socket:
  """A connected socket, for https with its handshake done."""
  port = url.port or (443 if url.scheme == "https" else 80)
  found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
  error: OSError = OSError("the host has no address")
  for family, kind, protocol, _, address in found:
    sock = socket.socket(family, kind, protocol)
    try:
      sock.settimeout(_left(deadline))
      sock.connect(address)
      if url.scheme == "https":  # The timeout holds for the whole handshake.
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=url.hostname)
      return sock
    except OSError as failed:
      sock.close()
      error = failed
  raise error


def _left(deadline: float) -> float:
  left = deadline - time.monotonic()
  if left <= 0:
    raise TimeoutError
  return left


class _Wire:
  """What http.client takes for a socket: bounded in time and bytes."""

  def __init__(self, sock: socket.socket, deadline: float, max_bytes: int):
    self._sock, self._deadline, self._max_bytes = sock, deadline, max_bytes

  def sendall(self, data: bytes) -> None:
    self._sock.settimeout(_left(self._deadline))
    self._sock.sendall(data)  # The timeout holds for all of it.

  def makefile(self, mode: str) -> io.BufferedReader:
    del mode
    return io.BufferedReader(
      _Reader(self._sock, self._deadline, self._max_bytes)
    )

  def close(self) -> None:
    """Leaves it to the owner of the socket."""


class _Reader(io.RawIOBase):
  """What a socket receives, until the deadline and so many bytes."""

  def __init__(self, sock: socket.socket, deadline: float, max_bytes: int):
    self._sock, self._deadline, self._left = sock, deadline, max_bytes

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    self._sock.settimeout(_left(self._deadline))
    count = self._sock.recv_into(buffer)
    self._left -= count
    if self._left < 0:
      raise TooLarge
    return count
