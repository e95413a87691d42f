"""A web server on loopback that misbehaves as it is told."""

import http.server
import threading
from collections.abc import Callable


class FileServer(http.server.ThreadingHTTPServer):
    """Serves ``content`` at every path. Request i is answered by ``answers[i]``, later ones by the last.

    ``paths`` has the path of each request so far.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.answers = content, [whole]
        self.paths: list[str] = []
        self.stopping = threading.Event()
        self.serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.serving.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/"

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.serving.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        index = min(len(self.server.paths), len(self.server.answers)) - 1
        self.server.answers[index](self)

    def log_message(self, *_: object) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


Answer = Callable[[_Handler], None]


def _send(handler: _Handler, content: bytes, stop: int | None) -> None:
    """A file that is announced whole; nothing from ``stop`` on."""
    handler.head(200, Content_Length=len(content))
    handler.wfile.write(content[:stop])


def whole(handler: _Handler) -> None:
    _send(handler, handler.server.content, None)


def cut(stop: int) -> Answer:
    return lambda handler: _send(handler, handler.server.content, stop)


def stall(stop: int) -> Answer:
    def answer(handler: _Handler) -> None:
        _send(handler, handler.server.content, stop)
        handler.wfile.flush()
        handler.server.stopping.wait(10)

    return answer


def altered(handler: _Handler) -> None:
    content = handler.server.content
    _send(handler, content[:-1] + bytes([content[-1] ^ 1]), None)


def without_length(stop: int | None) -> Answer:
    def answer(handler: _Handler) -> None:
        handler.head(200)
        handler.wfile.write(handler.server.content[:stop])

    return answer


def announcing(n_bytes: int) -> Answer:
    return lambda handler: handler.head(200, Content_Length=n_bytes)


def status(code: int) -> Answer:
    return lambda handler: handler.head(code, Content_Length=0)


def redirect(url: str) -> Answer:
    return lambda handler: handler.head(302, Location=url, Content_Length=0)
