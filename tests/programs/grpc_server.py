"""Serves all four kinds of gRPC call to clients that send the key: grpc_server.py PORT CERTIFICATE KEY"""

import sys
from concurrent import futures

import grpc


class Authorized(grpc.ServerInterceptor):
    def intercept_service(self, continuation, details):
        if ("authorization", "Bearer grpc-key") in details.invocation_metadata:
            return continuation(details)
        refuse = lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
        return grpc.unary_unary_rpc_method_handler(refuse)


def repeated(request, _context):
    for number in range(100):
        yield request + str(number).encode()


def counted(requests, context):
    context.set_trailing_metadata((("x-seen", "all"),))
    return str(sum(1 for _ in requests)).encode()


def echoed(requests, _context):
    yield from requests


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
    "Repeat": grpc.unary_stream_rpc_method_handler(repeated),
    "Count": grpc.stream_unary_rpc_method_handler(counted),
    "Echo": grpc.stream_stream_rpc_method_handler(echoed),
}
with open(sys.argv[2], "rb") as certificate, open(sys.argv[3], "rb") as key:
    credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[Authorized()])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
server.add_secure_port(f"127.0.0.1:{sys.argv[1]}", credentials)
server.start()
print("ready", flush=True)
server.wait_for_termination()
