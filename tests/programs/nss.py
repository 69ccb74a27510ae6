"""Fetches URLs through a proxy with libcurl built on NSS: nss.py LIBRARY PROXY URL…

Several hosts on one handle share NSS' certificate cache, which rejects a second certificate with the same issuer and serial."""

import ctypes
import sys

URL, PROXY, WRITE_FUNCTION, ERROR_BUFFER, TIMEOUT = 10002, 10004, 20011, 10010, 13
RESPONSE_CODE = 0x200002

curl = ctypes.CDLL(sys.argv[1])
curl.curl_easy_init.restype = ctypes.c_void_p
curl.curl_easy_setopt.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
curl.curl_easy_perform.argtypes = [ctypes.c_void_p]
curl.curl_easy_getinfo.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
curl.curl_global_init(3)


@ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
def discard(_data, size, count, _context):
    return size * count


handle = curl.curl_easy_init()
error = ctypes.create_string_buffer(256)
outcomes = []
for url in sys.argv[3:]:
    curl.curl_easy_setopt(handle, URL, url.encode())
    curl.curl_easy_setopt(handle, PROXY, sys.argv[2].encode())
    curl.curl_easy_setopt(handle, WRITE_FUNCTION, ctypes.cast(discard, ctypes.c_void_p))
    curl.curl_easy_setopt(handle, ERROR_BUFFER, ctypes.cast(error, ctypes.c_void_p))
    curl.curl_easy_setopt(handle, TIMEOUT, 20)
    status = ctypes.c_long()
    if curl.curl_easy_perform(handle):
        outcomes.append(error.value.decode())
        continue
    curl.curl_easy_getinfo(handle, RESPONSE_CODE, ctypes.byref(status))
    outcomes.append(str(status.value))
print(*outcomes)
