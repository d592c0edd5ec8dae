"""Asks the forward proxy for one tunnel, for `howk doctor`: to the port 443 of a name, as a delivery would, and closes
it unused. What it answers is for `diagnosis` to judge.
"""

import socket
import threading

from howk.domain.forward_proxy import MAX_ANSWER, ForwardProxy, connect_answer, connect_request
from howk.runtime.diagnosis import Tunnel

_TAKEN_WITHIN = 2.0
_ANSWERED_WITHIN = 5.0
_ALL_WITHIN = 10.0
_PORT = 443


def ask_proxy(proxy: ForwardProxy, name: str) -> Tunnel:
    """What became of it. The resolver has no deadline of its own."""
    target = f"{name}:{_PORT}"
    said: list[Tunnel] = []
    asking = threading.Thread(target=lambda: said.append(_ask(proxy, name, target)), daemon=True)
    asking.start()
    asking.join(_ALL_WITHIN)
    return said[0] if said else Tunnel(target, problem=f"no answer within {_ALL_WITHIN:g} s")


def _ask(proxy: ForwardProxy, name: str, target: str) -> Tunnel:
    try:
        with socket.create_connection((proxy.host, proxy.port), _TAKEN_WITHIN) as sock:
            address = _address(name)
            if not address:
                return Tunnel("")
            sock.settimeout(_ANSWERED_WITHIN)
            sock.sendall(connect_request(proxy, address, _PORT))
            return Tunnel(target, _status(sock))
    except TimeoutError:
        return Tunnel(target, problem="it does not answer in time")
    except (OSError, UnicodeError) as error:
        return Tunnel(target, problem=str(getattr(error, "strerror", None) or error).lower())
    except ValueError as error:
        return Tunnel(target, problem=f"its answer {error}")


def _address(name: str) -> str:
    """Empty for a name that does not resolve, which is a finding of its own."""
    try:
        return str(socket.getaddrinfo(name, _PORT, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        return ""


def _status(sock: socket.socket) -> int:
    data = b""
    while (answer := connect_answer(data)) is None:
        piece = sock.recv(MAX_ANSWER)
        if not piece:
            raise ConnectionResetError(0, "it closes the connection")
        data += piece
    return answer.status
