"""Hosts on one machine, as far as programs can tell: each has a network namespace with an address on a
bridge, its own host name, process numbers, IPC and /dev/shm; the file system is shared. A fault of a host
is one of these: cut off, without power, frozen. Needs root, iproute2 and util-linux."""
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

# PID 1 of a host: names it, and waits for the processes that nobody else waits for.
INIT = r"""
import os, socket, subprocess, sys, time
subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm"], check=True)
socket.sethostname(sys.argv[1])
print("up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""

# What mpirun calls in place of ssh: AGENT [OPTIONS] HOST COMMAND. As with ssh, the command gets none of
# the caller's environment, and the call ends when the host does.
AGENT = r"""#!/bin/sh
while :; do case "$1" in -x|-n|-q|-T) shift;; -l|-p|-o) shift 2;; *) break;; esac; done
host=$1; shift
pid=$(cat "@/$host" 2>/dev/null) && [ -d "/proc/$pid" ] || {
  echo "no route to host $host" >&2; exit 255; }
exec nsenter -t "$pid" -n -u -i -m -p --wd="$PWD" -- \
  env -i PATH="$PATH" HOME="$HOME" OMP_NUM_THREADS=1 /bin/sh -c "$*"
"""


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def missing():
    """What this machine lacks; "": nothing."""
    if os.geteuid() != 0:
        return "is not root"
    for tool in ("ip", "nsenter", "unshare"):
        if not shutil.which(tool):
            return f"has no {tool} (iproute2, util-linux)"
    try:
        hosts = Hosts(1)
    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
        return f"cannot make hosts of namespaces: {getattr(error, 'stderr', '') or error}".strip()
    hosts.close()
    return ""


class Hosts:
    """`head`, which has the machine's process numbers so that it can start processes on the others,
    and hosts 1 to `count`. Host i is called by its address, `address(i)`."""

    def __init__(self, count):
        self.id = f"drill{os.getpid()}"
        self.switch, self.inits, self.spaces_made = f"{self.id}-switch", {}, []
        self.directory = tempfile.mkdtemp(prefix="muster_hosts_")
        self.agent = os.path.join(self.directory, "agent")
        with open(self.agent, "w") as file:
            file.write(AGENT.replace("@", self.directory))
        os.chmod(self.agent, stat.S_IRWXU)
        try:
            self._space(self.switch)
            run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", "bridge", "up")
            for host in range(count + 1):
                self._plug(host)
            for host in range(1, count + 1):
                self._boot(host)
        except BaseException:
            self.close()
            raise

    def _space(self, name):
        run("ip", "netns", "add", name)
        self.spaces_made.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _plug(self, host):
        space = self.space(host)
        self._space(space)
        run("ip", "-n", self.switch, "link", "add", f"port{host}", "type", "veth", "peer", "name", "eth0",
            "netns", space)
        run("ip", "-n", self.switch, "link", "set", f"port{host}", "master", "bridge", "up")
        run("ip", "-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")

    def _boot(self, host):
        # The name is long, and the hosts' names are alike but for their ends.
        name = f"{self.id}-a-host-whose-name-fills-most-of-what-is-allowed-{host}"
        log = os.path.join(self.directory, f"host{host}.log")
        with open(log, "w") as errors:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.space(host), "unshare", "--uts", "--ipc", "--pid", "--mount",
                 "--fork", "--kill-child", sys.executable, "-c", INIT, name],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
        if process.stdout.readline() != "up\n":
            process.kill()
            with open(log) as file:
                raise RuntimeError(f"host {host} did not start: {file.read()}")
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            init = int(file.read().split()[0])
        self.inits[host] = (process, init, os.readlink(f"/proc/{init}/ns/pid"))
        with open(os.path.join(self.directory, self.address(host)), "w") as file:
            file.write(str(init))

    def space(self, host):
        return f"{self.id}-{host}"

    @staticmethod
    def address(host):
        """Of host 1, 2, ...; 0 is the head's."""
        return f"10.83.0.{host + 1}"

    def at_head(self, command):
        """The same command, to be run on the head."""
        return ["ip", "netns", "exec", self.space(0), "unshare", "--uts", "--", "sh", "-c",
                f'hostname {self.id}-head && exec "$@"', "sh", *command]

    def environment(self):
        """For mpirun on the head."""
        return dict(os.environ, OMPI_MCA_plm_rsh_agent=self.agent, OMPI_MCA_mpi_yield_when_idle="1",
                    OMPI_MCA_btl="self,tcp,vader")

    def hostfile(self, hosts, slots):
        path = os.path.join(self.directory, "hostfile")
        with open(path, "w") as file:
            for host in hosts:
                file.write(f"{self.address(host)} slots={slots}\n")
        return path

    def cut(self, host):
        """Nothing comes through, and nobody is told."""
        run("ip", "-n", self.switch, "link", "set", f"port{host}", "nomaster")

    def mend(self, host):
        run("ip", "-n", self.switch, "link", "set", f"port{host}", "master", "bridge")

    def power_off(self, host):
        self.cut(host)
        self.kill(host)

    def kill(self, host):
        """All its processes die; the kernel closes their connections."""
        process, init, _ = self.inits[host]
        os.kill(init, signal.SIGKILL)
        process.wait()

    def processes(self, host):
        """All but its first, by their numbers here."""
        _, init, space = self.inits[host]
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                if pid != init and os.readlink(f"/proc/{pid}/ns/pid") == space:
                    found.append(pid)
            except OSError:
                pass
        return found

    def freeze(self, host):
        self._signal(host, signal.SIGSTOP)

    def thaw(self, host):
        self._signal(host, signal.SIGCONT)

    def _signal(self, host, number):
        for pid in self.processes(host):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def close(self):
        for process, init, _ in self.inits.values():
            if process.poll() is None:
                os.kill(init, signal.SIGKILL)
                process.wait()
            process.stdout.close()
        # What was started at the head ends with its drill; a namespace lives on as long as it has some.
        for space in reversed(self.spaces_made):
            for _ in range(50):
                if subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.02)
        shutil.rmtree(self.directory, ignore_errors=True)
