"""Python's HTTP clients behind the proxy: `client.py requests|httpx|urllib ORIGIN SECONDS`.

The environment has what a user would set: http_proxy, https_proxy, REQUESTS_CA_BUNDLE and
SSL_CERT_FILE. Prints `NAME SCHEME REQUESTS FAILURES` for each scheme, and failures on standard error.
"""

import json
import sys
import time
import urllib.error
import urllib.request

REQUEST_TIMEOUT = 20  # seconds for one request
PAUSE = 0.02  # seconds between rounds: a busy application, not a load test


def urllib_sender():
    def send(method, url, body):
        request = urllib.request.Request(url, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return send


def requests_sender():
    import requests

    session = requests.Session()

    def send(method, url, body):
        fields = {"Content-Type": "application/json"} if body is not None else {}
        answer = session.request(method, url, data=body, headers=fields, timeout=REQUEST_TIMEOUT)
        return answer.status_code, answer.content

    return send


def httpx_sender():
    import httpx

    client = httpx.Client(http2=True, timeout=REQUEST_TIMEOUT)  # by ALPN, so for https only

    def send(method, url, body):
        fields = {"Content-Type": "application/json"} if body is not None else {}
        answer = client.request(method, url, content=body, headers=fields)
        return answer.status_code, answer.content

    return send


SENDERS = {"requests": requests_sender, "httpx": httpx_sender, "urllib": urllib_sender}


def get(send, base, number):
    """The API describes the request it saw: it must be ours, with a token."""
    target = f"/hello?n={number}"
    status, content = send("GET", base + target, None)
    if status != 200:
        return f"GET {target}: {status} {content!r}"
    seen = json.loads(content)
    if seen["target"] != target or seen["authorization"] is not True:
        return f"GET {target}: the API saw {seen}"
    return None


def post(send, base, number):
    """The API sends the body back."""
    body = json.dumps({"client": "python", "number": number}).encode()
    status, content = send("POST", base + "/echo", body)
    if status != 200 or content != body:
        return f"POST /echo: {status} {content!r}"
    return None


def attempt(check, send, base, number):
    try:
        return check(send, base, number)
    except Exception as error:  # whatever a client raises is a failure that an application sees
        return f"{check.__name__}: {error!r}"


def main():
    name, origin, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    send = SENDERS[name]()
    requests = {"http": 0, "https": 0}
    failures = {"http": 0, "https": 0}
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        for scheme in requests:
            for check in (get, post):
                complaint = attempt(check, send, f"{scheme}://{origin}", number)
                requests[scheme] += 1
                if complaint:
                    failures[scheme] += 1
                    print(f"{scheme} {complaint}", file=sys.stderr)
        time.sleep(PAUSE)
    for scheme in requests:
        print(f"{name} {scheme} {requests[scheme]} {failures[scheme]}")


main()
