"""Measures an honest client during one attack after another: load.py BEARERD DIRECTORY [ATTACK…]"""

import asyncio
import logging
import multiprocessing
import os
import resource
import socket
import struct
import subprocess
import sys
import time

SECONDS = 4
PACE = 0.01
FLOOR = 0.030
FACTOR = 3

CONFIG = """
[proxy]
listen = "127.0.0.1:{proxy}"
[admin]
listen = "127.0.0.1:{admin}"
[limits]
send_timeout = "10s"
stall_timeout = "10s"
[credential.api]
hosts = ["127.0.0.1:{origin}", "127.0.0.1:{other}"]
allow_http = true
grant = "static"
vars = {{ key = "secret" }}
inject = {{ Authorization = "Bearer ${{key}}" }}
[store]
url = "memory:"
[ca]
dir = "certs"
"""

# ---- the origin server ---------------------------------------------------------------------------------


async def answer(reader, writer):
    """One connection: what is asked for says how it is answered."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if path == b"/rejected" or b"authorization: Bearer secret" not in head and path != b"/open":
                writer.write(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")
            elif path == b"/endless":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n")
                while True:
                    writer.write(bytes(65536))
                    await writer.drain()
            elif path == b"/stalled":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome")
                await asyncio.sleep(3600)
            elif path == b"/held":
                await asyncio.sleep(3600)
            elif path == b"/interim":
                while True:
                    writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 100)
                    await writer.drain()
            elif path == b"/upload":
                await read_chunks(reader)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def read_chunks(reader):
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        await reader.readexactly(size + 2)
        if size == 0:
            return


def serve(port):
    # An attack may leave it without descriptors, which is said thousands of times.
    logging.getLogger("asyncio").disabled = True

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    asyncio.run(main())


# ---- the honest client -----------------------------------------------------------------------------------


def request(origin, path="/", method="GET", fields=""):
    host = f"127.0.0.1:{origin}"
    return f"{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode()


def connect(port):
    stream = socket.create_connection(("127.0.0.1", port), timeout=20)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def measure(proxy, origin, pipe):
    """Asks for some seconds; sends how long each answer took and how many failed."""
    times, failures, stream = [], 0, None
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            stream = stream or connect(proxy)
            stream.sendall(request(origin))
            received = b""
            while not received.endswith(b"ok"):
                piece = stream.recv(4096)
                if not piece:
                    raise ConnectionError("closed")
                received += piece
                if not received.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(received[:40])
        except OSError as error:
            print("        failure:", error)
            failures += 1
            stream = None
        times.append(time.monotonic() - began)
        time.sleep(PACE)
    pipe.send((times, failures))


def honest(proxy, origin):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=measure, args=(proxy, origin, theirs))
    process.start()
    times, failures = ours.recv()
    process.join()
    times.sort()
    return times, failures


def percentile(times, part):
    return times[min(len(times) - 1, int(len(times) * part))]


# ---- the attacks: each keeps what it opens until it is killed ------------------------------------------------


def slow_readers(ports):
    """100 clients that ask for an endless answer and never read."""
    streams = [connect(ports["proxy"]) for _ in range(100)]
    for stream in streams:
        stream.sendall(request(ports["other"], "/endless"))
    time.sleep(3600)


def stalled(ports):
    """100 answers that stall in the middle."""
    streams = [connect(ports["proxy"]) for _ in range(100)]
    for stream in streams:
        stream.sendall(request(ports["other"], "/stalled"))
    time.sleep(3600)


def long_polls(ports):
    """300 long polls to the same API."""
    streams = [connect(ports["proxy"]) for _ in range(300)]
    for stream in streams:
        stream.sendall(request(ports["origin"], "/held"))
    time.sleep(3600)


def dead_names(ports):
    """600 names that do not resolve, again and again."""
    streams = []
    for number in range(600):
        stream = connect(ports["proxy"])
        host = f"h{number}.dead.test"
        stream.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        streams.append(stream)
    time.sleep(3600)


def interim(ports):
    """20 answers that begin with an endless flood of 103."""
    while True:
        streams = [connect(ports["proxy"]) for _ in range(20)]
        for stream in streams:
            stream.sendall(request(ports["other"], "/interim"))
        for stream in streams:
            stream.recv(4096)


def uploads(ports):
    """16 uploads of 1 MiB in chunks of one byte, some 300,000 chunks a second."""
    streams = [connect(ports["proxy"]) for _ in range(16)]
    for stream in streams:
        stream.sendall(request(ports["other"], "/upload", "POST", "Transfer-Encoding: chunked\r\n"))
    for _ in range(1024):
        for stream in streams:
            stream.sendall(b"1\r\nx\r\n" * 1024)
        time.sleep(0.05)
    time.sleep(3600)


def unread_log(ports):
    """A flood of requests while nobody reads the log (bearerd's standard error is a full pipe)."""
    stream = connect(ports["proxy"])
    while True:
        stream.sendall(b"GET http://x@y/ HTTP/1.1\r\nHost: y\r\n\r\n")
        stream.recv(65536)
        stream.close()
        stream = connect(ports["proxy"])


def descriptors(ports):
    """ulimit -n 300, with 320 idle admin connections and 60 requests that the API holds."""
    idle = [connect(ports["admin"]) for _ in range(320)]
    held = [connect(ports["proxy"]) for _ in range(60)]
    for stream in held:
        stream.sendall(request(ports["origin"], "/held"))
    time.sleep(3600)
    del idle


def connections(ports):
    """Connections that come and go as fast as they can."""
    while True:
        connect(ports["proxy"]).close()


def malformed(ports):
    """Requests that cannot be read, as fast as they can be sent."""
    while True:
        stream = connect(ports["proxy"])
        stream.sendall(b"GET / \x00\r\n\r\n")
        stream.recv(4096)
        stream.close()


def slow_heads(ports):
    """200 heads that do not come to an end."""
    streams = [connect(ports["proxy"]) for _ in range(200)]
    while True:
        for stream in streams:
            try:
                stream.sendall(b"G")
            except OSError:
                pass
        time.sleep(0.5)


def half_closed(ports):
    """200 clients that close their half and wait for an answer that does not come."""
    streams = [connect(ports["proxy"]) for _ in range(200)]
    for stream in streams:
        stream.sendall(request(ports["origin"], "/held"))
        stream.shutdown(socket.SHUT_WR)
    time.sleep(3600)


def handshakes(ports):
    """200 sessions whose TLS handshake does not come to an end, begun anew whenever they are cut off."""
    host = f"127.0.0.1:{ports['other']}"
    while True:
        streams = [connect(ports["proxy"]) for _ in range(200)]
        for stream in streams:
            stream.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            stream.recv(4096)
            stream.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        for stream in streams:
            stream.recv(4096)


def cancelled(ports):
    """Requests whose client leaves at once with a reset, as fast as they can be sent."""
    while True:
        stream = connect(ports["proxy"])
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.sendall(request(ports["other"]))
        stream.close()


def rejected(ports):
    """Requests that the API answers with 401 whatever the token."""
    streams = [connect(ports["proxy"]) for _ in range(8)]
    while True:
        for stream in streams:
            stream.sendall(request(ports["other"], "/rejected"))
        for stream in streams:
            stream.recv(65536)


def large_heads(ports):
    """Heads of 30 KiB with 90 fields, as fast as they are answered."""
    fields = "".join(f"x-field-{n}: {'y' * 320}\r\n" for n in range(90))
    stream = connect(ports["proxy"])
    while True:
        stream.sendall(request(ports["other"], fields=fields))
        stream.recv(65536)


def downloads(ports):
    """16 clients that take endless answers as fast as they come."""
    streams = [connect(ports["proxy"]) for _ in range(16)]
    for stream in streams:
        stream.sendall(request(ports["other"], "/endless"))
    while True:
        for stream in streams:
            stream.recv(65536)


ATTACKS = [
    slow_readers, stalled, long_polls, dead_names, interim, uploads, unread_log, descriptors, connections,
    malformed, slow_heads, half_closed, handshakes, cancelled, rejected, large_heads, downloads,
]

# ---- one after the other ----------------------------------------------------------------------------------


def free_ports(count):
    found = [socket.socket() for _ in range(count)]
    for listener in found:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in found]
    for listener in found:
        listener.close()
    return ports


def start_bearerd(program, directory, ports, attack):
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/proxy.toml", "w") as file:
        file.write(CONFIG.format(**ports))
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    errors = subprocess.PIPE if attack is unread_log else open(f"{directory}/bearerd.log", "w")
    process = subprocess.Popen(
        [program, "run", "--config", "proxy.toml"],
        cwd=directory,
        stderr=errors,
        preexec_fn=limit if attack is descriptors else None,
    )
    for _ in range(100):
        try:
            connect(ports["proxy"]).close()
            return process
        except OSError:
            time.sleep(0.1)
    sys.exit("bearerd did not start")


def memory(process):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def ends(process):
    """How long it takes to stop."""
    began = time.monotonic()
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.monotonic() - began


def attacking(work, ports):
    """An attacker's programs run on other machines: here they get the time that nobody else wants."""
    os.nice(19)
    work(ports)


def try_attack(program, directory, attack):
    ports = dict(zip(("proxy", "admin", "origin", "other"), free_ports(4)))
    # What an attack makes an API do must not slow the one that the honest client asks.
    origins = [
        multiprocessing.Process(target=serve, args=(ports["origin"],), daemon=True),
        multiprocessing.Process(target=attacking, args=(serve, ports["other"]), daemon=True),
    ]
    for origin in origins:
        origin.start()
    bearerd = start_bearerd(program, f"{directory}/{attack.__name__}", ports, attack)
    alone, failures_alone = honest(ports["proxy"], ports["origin"])
    attacker = multiprocessing.Process(target=attacking, args=(attack, ports), daemon=True)
    attacker.start()
    time.sleep(1)
    beside, failures = honest(ports["proxy"], ports["origin"])
    live = subprocess.run(
        ["curl", "-s", "-m", "3", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}",
         f"http://127.0.0.1:{ports['admin']}/livez"], capture_output=True, text=True).stdout
    attacker.kill()
    peak = memory(bearerd)
    # What the APIs hold is over.
    for origin in origins:
        origin.kill()
    stopped = ends(bearerd)
    before, after = percentile(alone, 0.99), percentile(beside, 0.99)
    holds = failures + failures_alone == 0 and live == "200" and stopped < 10
    holds = holds and after <= max(FACTOR * before, FLOOR)
    figures = (
        f"{len(beside):5} {failures:8} {percentile(alone, 0.5) * 1e3:9.1f} {before * 1e3:9.1f}"
        f" {percentile(beside, 0.5) * 1e3:9.1f} {after * 1e3:9.1f} {live:>6} {peak:7.0f} {stopped:7.1f}"
    )
    print(f"{'ok    ' if holds else 'FAILED'}  {attack.__name__:13} {figures}", flush=True)
    return holds


def main():
    program, directory, *names = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    print("                            beside           alone, ms         beside, ms             MiB   end s")
    print("        attack           asked failures       p50       p99       p50       p99  livez    peak")
    chosen = [attack for attack in ATTACKS if not names or attack.__name__ in names]
    held = [try_attack(program, directory, attack) for attack in chosen]
    print(f"{sum(held)} passed, {len(held) - sum(held)} failed")
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
