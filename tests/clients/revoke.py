"""Revokes all valid access tokens now and then while clients use them.

    revoke.py CONTROL_URL

Revokes about every third token, between 0.5 s and 1.5 s after it was issued: then every request carries that token,
and the next one is not being issued yet. A request whose first and second token are both revoked would correctly get
the second 401. This is one process, so that it finds such a moment on a busy machine too.

Runs until it is killed, and prints a line for each revocation.
"""

import http.client
import json
import sys
import time
from contextlib import closing
from urllib.parse import urlsplit

# Seconds.
INTERVAL = 5
YOUNGEST, OLDEST = 0.5, 1.5
BETWEEN_LOOKS = 0.05


class Control:
    """The control endpoint of the test servers; see tests/clients/lib.sh."""

    def __init__(self, url):
        self.authority = urlsplit(url).netloc

    def call(self, method, path):
        """Returns the JSON of a response with status 200."""
        with closing(http.client.HTTPConnection(self.authority, timeout=5)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: status {response.status}")
        return json.loads(body)

    def issued(self):
        return self.call("GET", "/stats")["issued"]

    def wait_for_token(self):
        """Waits for the next access token. Returns when it was issued at the earliest and at the latest."""
        count = self.issued()
        while True:
            earliest = time.monotonic()
            time.sleep(BETWEEN_LOOKS)
            if self.issued() > count:
                return earliest, time.monotonic()


def main(url):
    control = Control(url)
    next_revocation = time.monotonic() + INTERVAL / 2
    while True:
        time.sleep(max(0, next_revocation - time.monotonic()))
        earliest, latest = control.wait_for_token()
        time.sleep(max(0, latest + YOUNGEST - time.monotonic()))
        age = time.monotonic() - earliest
        if age > OLDEST:
            print(f"too late: the token may be {age:.2f} s old", flush=True)
            continue
        print(f"after {age:.2f} s at most: {control.call('POST', '/revoke')}", flush=True)
        next_revocation = time.monotonic() + INTERVAL


main(sys.argv[1])
