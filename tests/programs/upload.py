"""Uploads a file with urllib through the proxy in the environment and prints the status: upload.py URL FILE"""

import sys
import urllib.error
import urllib.request

with open(sys.argv[2], "rb") as file:
    request = urllib.request.Request(sys.argv[1], data=file.read(), method="POST")
try:
    with urllib.request.urlopen(request, timeout=20) as response:
        print(response.status)
except urllib.error.HTTPError as error:
    error.read()
    print(error.code)
