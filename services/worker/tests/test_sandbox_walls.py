"""What a program cannot reach: the network, other sandboxes, the machine, the kernel's risky doors."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from qonduit_worker.sandbox.testing import Sandboxes


async def test_no_network_but_its_own_loopback(sandboxes: Sandboxes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as host_server:
        port = host_server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # From here it can be reached.
        code = f"""
            import json, socket
            def tried(family, kind, address):
                try:
                    with socket.socket(family, kind) as s:
                        s.settimeout(2)
                        s.connect(address)
                        return "connected"
                except OSError as error:
                    return type(error).__name__
            print(json.dumps([
                tried(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {port})),
                tried(socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80)),
                tried(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53)),
                tried(socket.AF_NETLINK, socket.SOCK_RAW, (0, 0)),
                tried(socket.AF_PACKET, socket.SOCK_RAW, ("lo", 0)),
            ]))
        """
        output, _end = await sandboxes.run(code)
    assert json.loads(output) == ["ConnectionRefusedError", "OSError", "OSError", "OSError", "OSError"]


async def test_the_agent_serves_into_the_sandbox(sandboxes: Sandboxes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    code = """
        import os, socket
        with socket.create_connection(("127.0.0.1", int(os.environ["PORT"]))) as s:
            s.sendall(b"program\\n")
            print(s.makefile().read(), end="")
    """
    sandbox = await sandboxes.fork(code, environment={"PORT": "@QONDUIT_PORT@"})
    server = await asyncio.start_server(answer, sock=sandbox.open_listener())
    assert await sandbox.output.read() == b"hello program\n"
    assert (await sandbox.wait()).exit_code == 0
    server.close()
    await server.wait_closed()


async def test_a_program_may_be_over_before_its_agent_serves(sandboxes: Sandboxes) -> None:
    sandbox = await sandboxes.fork("pass")
    await sandbox.wait()
    assert sandbox.open_listener() is None


async def test_the_agents_unix_socket_is_reached_by_its_path(sandboxes: Sandboxes) -> None:
    spec = sandboxes.spec("""
        import socket
        with socket.socket(socket.AF_UNIX) as s:
            s.connect("/run/qonduit/agent.sock")
            s.sendall(b"hello")
    """)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(spec.directory / "run" / "agent.sock"))
        server.listen()
        sandbox = await sandboxes.zygote.fork(spec)
        assert await sandbox.output.read() == b""
        assert (await sandbox.wait()).exit_code == 0
        connection, _ = server.accept()
        assert connection.recv(10) == b"hello"
        connection.close()


async def test_other_folders_of_the_machine_are_not_there(sandboxes: Sandboxes, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    neighbour = sandboxes.spec("pass")
    paths = [
        str(secret), str(neighbour.directory), str(sandboxes.folder), "/etc/shadow", "/root/.bashrc", "/home",
        "/.host/etc",
        "/var/log", "/sys", "/proc/1/root/etc/shadow", str(Path(__file__).parent / "conftest.py"), "/run/lock",
    ]  # fmt: skip
    code = f"""
        import os
        for path in {paths!r}:
            try:
                os.stat(path)
                if os.path.isdir(path):
                    os.listdir(path)
                print("reached", path)
            except OSError:
                pass
        print(os.listdir("/.host"))
    """
    output, _end = await sandboxes.run(code)
    assert output == "[]\n"


async def test_a_providers_files_are_at_their_place_and_read_only(sandboxes: Sandboxes) -> None:
    code = """
        import os
        print(os.path.exists("/function_data"))
        try:
            print(open("/function_data/model.tar").read())
            open("/function_data/model.tar", "w")
        except OSError as error:
            print(type(error).__name__, error.strerror)
    """
    spec = sandboxes.spec(code)
    function_data = spec.directory / "run" / "function_data"
    function_data.mkdir()
    (function_data / "model.tar").write_text("weights")
    sandbox = await sandboxes.zygote.fork(spec)
    assert (await sandbox.output.read()).decode().splitlines() == ["True", "weights", "OSError Read-only file system"]
    await sandbox.wait()
    output, _end = await sandboxes.run(code)
    assert output.splitlines() == ["False", "FileNotFoundError No such file or directory"]


async def test_only_its_own_processes_are_seen(sandboxes: Sandboxes) -> None:
    neighbour = await sandboxes.fork("print('here', flush=True); import time; time.sleep(600)")
    await neighbour.output.readline()
    code = """
        import os
        print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()), os.getpid())
        try:
            os.kill(1, 9)
        except OSError:
            pass
        for path in ("root", "cwd", "exe", "fd/0", "ns/user"):
            try:
                print(os.readlink(f"/proc/1/{path}"))
            except OSError:
                pass
        for path in ("mem", "environ", "maps"):
            try:
                print(open(f"/proc/1/{path}", "rb").read(1))
            except OSError:
                pass
    """
    output, end = await sandboxes.run(code)
    assert (output, end.exit_code) == ("[1, 2] 2\n", 0)
    neighbour.kill()
    await neighbour.wait()
    await neighbour.output.read()


@pytest.mark.parametrize(
    "path", ["/usr/x", "/etc/x", "/x", "/bin/x", "/dev/x", "/proc/sys/kernel/core_pattern", "/run/x", "PREFIX/x"]
)
async def test_the_system_is_read_only(sandboxes: Sandboxes, path: str) -> None:
    code = f"""
        import sys
        path = {path!r}.replace("PREFIX", sys.prefix)
        try:
            open(path, "w")
            print("written")
        except OSError:
            print("refused")
    """
    output, _end = await sandboxes.run(code)
    assert output == "refused\n"


KERNEL_DOORS = {
    "unshare user": "libc.unshare(0x10000000)",
    "unshare mount": "libc.unshare(0x00020000)",
    "clone user": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "libc.syscall(435, 0, 0)",
    "setns": "libc.setns(0, 0)",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "umount": "libc.umount2(b'/tmp', 2)",
    "chroot": "libc.chroot(b'/tmp')",
    "ptrace": "libc.ptrace(16, 1, 0, 0)",
    "process_vm_readv": "libc.process_vm_readv(1, None, 0, None, 0, 0)",
    "bpf": "libc.syscall(321, 0, 0, 0)",
    "keyctl": "libc.syscall(250, 0, 0, 0)",
    "io_uring": "libc.syscall(425, 8, 0)",
    "userfaultfd": "libc.syscall(323, 0)",
    "perf_event_open": "libc.syscall(298, 0, 0, -1, -1, 0)",
    "reboot": "libc.reboot(0)",
    "x32": "libc.syscall(0x40000000 + 39)",
    "setuid": "libc.setuid(0)",
    "sethostname": "libc.sethostname(b'x', 1)",
    "mknod": "libc.mknod(b'/tmp/null', 0o020666, 259)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
async def test_the_kernels_risky_doors_are_shut(sandboxes: Sandboxes) -> None:
    lines = [f"print({name!r}, {call}, ctypes.get_errno())" for name, call in KERNEL_DOORS.items()]
    code = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n" + "\n".join(lines)
    code += "\nprint([line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew', 'Seccomp:'))])"
    output, end = await sandboxes.run(code)
    assert end.exit_code == 0, output
    *doors, status = output.splitlines()
    for name, line in zip(KERNEL_DOORS, doors, strict=True):
        assert line.startswith(f"{name} -1 "), line
    for capability in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{capability}:\\t0000000000000000" in status
    assert "NoNewPrivs:\\t1" in status
    assert "Seccomp:\\t2" in status


async def test_threads_and_subprocesses_still_work(sandboxes: Sandboxes) -> None:
    code = """
        import concurrent.futures, multiprocessing, subprocess, sys
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            print(sum(pool.map(abs, range(-10, 0))))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(abs, [-1, -2]))
        print(subprocess.check_output([sys.executable, "-c", "import ssl, sys; print(sys.prefix)"]) != b"")
    """
    output, end = await sandboxes.run(code)
    assert (output, end.exit_code) == ("55\n[1, 2]\nTrue\n", 0)
