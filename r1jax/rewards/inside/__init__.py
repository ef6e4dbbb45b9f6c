"""What runs around and inside a sandbox, apart from the grader."""
