"""Kernels that need not import the heavy libraries: each is forked from one process that has done so.

For tests of what stands on a page. How a kernel starts, what it notes of the files it reads, and how it ends is told by tests with kernels
as they are (tests/report/test_faults.py, test_reads.py, test_fresh.py, tests/build/test_wheel.py): a forked one hides what was imported before
it from the notes of what it read, and does not carry the token of its run where others can see it.

This file is the process, too: `python warm.py NUMBER` serves the socket with that number until it is closed. It has no threads.
"""
import gc
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time

IMPORTED = ("numpy", "pandas", "matplotlib.pyplot", "sklearn.linear_model", "sklearn.feature_extraction.text",
            "torch", "torch._dynamo", "torchvision", "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert",
            "ipykernel.kernelapp", "ipykernel.ipkernel")
MOST = 2**20                                              # bytes of a request: an environment and a few words


class Forked:
    "A process that the server has forked, with what `subprocess.Popen` has of use to jupyter_client."
    stdout = stderr = returncode = None

    def __init__(self, server, pid): self.server, self.pid, self.stdin = server, pid, io.BytesIO()

    def poll(self):
        if self.returncode is None: self.returncode = self.server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout=None):
        end = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > end: raise subprocess.TimeoutExpired("a forked kernel", timeout)
            time.sleep(.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)
    def terminate(self): self.send_signal(signal.SIGTERM)


class Server:
    "The process that forks, begun at the first kernel."
    def __init__(self): self.door = None

    def open(self):
        self.door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            env = os.environ | {"PYTHONHASHSEED": "0", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # as a report's kernel has them
            self.process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL)

    def ask(self, request, fds=()):
        if self.door is None: self.open()
        socket.send_fds(self.door, [json.dumps(request).encode()], fds)
        return json.loads(self.door.recv(MOST))

    def popen(self, command, env, cwd=None, stdout=None, stderr=None, **others):
        "In the place of `subprocess.Popen` of a kernel."
        assert command[1] == "-m", command
        request = dict(words=command[2:], env=env, cwd=str(cwd or os.getcwd()))
        return Forked(self, self.ask(request, [stdout.fileno(), stderr.fileno()]))

    def close(self):
        if self.door is None: return
        self.door.close()
        self.process.wait(60)


# --- the process that forks --------------------------------------------------------------------------------------------

def become(words, env, cwd, fds):
    "Be what `python -m words…` would be with this environment."
    for number, fd in enumerate(fds, start=1): os.dup2(fd, number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[:] = words
    sys.path[:1] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def ended(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def serve(door):
    "Answer requests until the door is closed; in a child: (words, env, cwd, fds) of what it is to become."
    while True:
        message, fds, *_ = socket.recv_fds(door, MOST, 2)
        if not message: return None
        request = json.loads(message)
        if "poll" in request: door.send(json.dumps(ended(request["poll"])).encode())
        elif os.fork(): [os.close(fd) for fd in fds]
        else:                                             # answered once it is its own session: signals go to its group
            os.setsid()
            door.send(str(os.getpid()).encode())
            return request | {"fds": fds}


def main():
    for name in IMPORTED: __import__(name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)
    with socket.socket(fileno=int(sys.argv[1])) as door: todo = serve(door)
    if todo is None: os._exit(0)
    become(**todo)


if __name__ == "__main__": main()
