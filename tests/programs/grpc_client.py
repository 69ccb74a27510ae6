"""Makes the four kinds of gRPC call through a proxy and prints those that worked: grpc_client.py TARGET CA PROXY"""

import sys

import grpc

target, ca, proxy = sys.argv[1:]
with open(ca, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
channel = grpc.secure_channel(target, credentials, options=[("grpc.http_proxy", proxy)])
MESSAGES = [str(number).encode() * 100 for number in range(1000)]

worked = []
if channel.unary_unary("/test.Test/Unary")(b"one", timeout=20) == b"one":
    worked.append("unary")
if len(list(channel.unary_stream("/test.Test/Repeat")(b"n", timeout=20))) == 100:
    worked.append("server-stream")
answer, call = channel.stream_unary("/test.Test/Count").with_call(iter(MESSAGES), timeout=20)
if answer == b"1000" and ("x-seen", "all") in call.trailing_metadata():
    worked.append("client-stream")
if list(channel.stream_stream("/test.Test/Echo")(iter(MESSAGES), timeout=20)) == MESSAGES:
    worked.append("both")
print(*worked)
