"""Artifacts: files of tasks behind the API, stored once by content, moved over HTTP in pieces that survive a cut, packed and unpacked safely."""
