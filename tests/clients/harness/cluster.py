"""Several nodes that make one cluster: started, killed, stopped, cut off, wiped and looked into.

On loopback addresses (`Cluster(directory, 3)`), or each node in a network namespace of its own
(`isolated=True`), where the connections between nodes can be cut one direction at a time, or on loopback
with a relay in front of each (`relayed=True`), where what nodes say to each other can be delayed.
"""

import os
import shutil
import signal
import subprocess
from contextlib import suppress

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from .broker import Broker, binary, free_ports
from .network import Network
from .relay import Relay
from .wait import until

FORM_LIMIT_S = 30.0
ASK_LIMIT_S = 10.0
# Longer than a node needs to say that it does not know the outcome.
CREATE_LIMIT_S = 30.0
# Where addresses are not of loopback, nodes have to prove that they know this.
SECRET = "the secret of a cluster in a test"
# In a namespace each node has the ports that a machine of its own would have.
PORTS = {"kafka": 9092, "mqtt": 1883, "mqtt_ws": 8083, "admin": 9404, "cluster": 9301}


class Node(Broker):
    """One node of a cluster; its number is its node id."""

    def __init__(self, cluster, number, settings):
        super().__init__(cluster.directory / f"node-{number}")
        self.cluster, self.number = cluster, number
        self.settings = dict(settings)
        self.is_paused = False
        if cluster.network:
            self.host = cluster.network.address(number)
            self.ports = dict(PORTS)
            self.settings["cluster.secret"] = SECRET
        else:
            self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.relay = None
        if cluster.relayed:
            (port,) = free_ports(1)
            self.relay = Relay(port, (self.host, self.ports["cluster"]))
            self.settings["cluster.advertise"] = self.peer_address

    @property
    def peer_address(self):
        """Where other nodes reach it."""
        return f"{self.host}:{self.relay.port if self.relay else self.ports['cluster']}"

    def command(self):
        command = [*super().command(), "--node-id", str(self.number)]
        command += ["--cluster-listen", f"{self.host}:{self.ports['cluster']}"]
        command += ["--cluster-seeds", ",".join(self.cluster.seeds)]
        if self.cluster.network:
            return self.cluster.network.inside(self.number, [*command, "--insecure"])
        return command

    # === faults ===

    def kill(self):
        super().kill()
        self.is_paused = False

    def pause(self):
        """SIGSTOP: its connections stay open, and nothing on them is answered."""
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def stop(self):
        if self.process is not None and self.is_paused:
            self.resume()
        super().stop()

    def wipe(self):
        """Its disk is replaced by an empty one."""
        assert self.process is None, "a running node cannot be wiped"
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @property
    def is_running(self):
        return self.process is not None and not self.is_paused

    def cluster_command(self, *arguments):
        """The output of `mainstem cluster ...` asked at this node."""
        command = [binary(), "cluster", *arguments, "--admin", f"{self.host}:{self.ports['admin']}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_LIMIT_S)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def cluster_status(self):
        """`mainstem cluster status` as a dictionary of texts."""
        lines = (line.split(maxsplit=1) for line in self.cluster_command("status").splitlines())
        return {words[0]: words[1] if len(words) > 1 else "" for words in lines}


class Cluster:
    """Nodes 1 to `count`, all of them seeds. Default settings but for `settings`."""

    def __init__(self, directory, count, settings=None, isolated=False, relayed=False):
        assert not (isolated and relayed), "a relay would pass by the cuts"
        self.directory, self.relayed = directory, relayed
        self.network = Network(count) if isolated else None
        # Seeds are written into each node's command line, so the ports are all known first.
        self.nodes = {n: Node(self, n, settings or {}) for n in range(1, count + 1)}
        self.seeds = [node.peer_address for node in self.nodes.values()]
        # Topic -> how many replicas it was made with.
        self.replicas = {}

    def start(self):
        for node in self.nodes.values():
            node.launch()
        for node in self.nodes.values():
            node.wait_ready()
        self.wait_formed()
        return self

    def wait_formed(self):
        """Every running node names the same leader, and sees all brokers unfenced."""
        everyone = ",".join(str(number) for number in sorted(self.nodes))

        def formed():
            seen = [node.cluster_status() for node in self.running()]
            leaders = {status["leader"] for status in seen}
            good = all(s["brokers"] == everyone and not s["fenced"] for s in seen)
            return good and len(leaders) == 1 and leaders.isdisjoint({"", "-"})

        until(formed, self.describe, FORM_LIMIT_S, every_s=0.2)

    def describe(self):
        lines = ["the cluster is whole:"]
        for node in self.nodes.values():
            state = "not running"
            if node.is_running:
                with suppress(AssertionError, subprocess.TimeoutExpired):
                    state = node.cluster_command("status").replace("\n", "; ")
            lines.append(f"node {node.number}: {state}")
        return "\n".join(lines)

    def running(self):
        return [node for node in self.nodes.values() if node.is_running]

    def add(self, settings=None):
        """A node that was not among the first: it joins through the seeds."""
        assert self.network is None, "a network has as many places as it began with"
        number = max(self.nodes) + 1
        self.nodes[number] = Node(self, number, settings or {})
        return self.nodes[number]

    def heal(self):
        """Takes every fault away: cuts, stops, and nodes that do not run are started."""
        if self.network:
            self.network.heal_all()
        if self.relayed:
            self.delay(0.0, 0.0)
        for node in self.nodes.values():
            if node.is_paused:
                node.resume()
            if node.process is None:
                node.launch()
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self):
        """All at once, as an operator who shuts the whole cluster down would."""
        for node in self.running():
            node.process.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            node.stop()
        self._close_network()

    def delay(self, low_s, high_s):
        """What nodes say to each other takes that much longer from now on."""
        for node in self.nodes.values():
            node.relay.delay_s = (low_s, high_s)

    def kill(self):
        for node in self.nodes.values():
            node.kill()
        self._close_network()

    def _close_network(self):
        for node in self.nodes.values():
            if node.relay:
                node.relay.close()
                node.relay = None
        if self.network and not os.environ.get("BROKER_KEEP_NETWORK"):
            self.network.close()

    # === what clients see ===

    @property
    def bootstrap(self):
        return ",".join(node.bootstrap for node in self.nodes.values())

    def mqtt_addresses(self):
        """(host, port) of every node that an MQTT client may connect to."""
        return [(node.host, node.mqtt_port) for node in self.nodes.values()]

    def admin(self):
        """A new client each time: one that idled through a fault takes long to come back."""
        settings = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        return AdminClient({**settings, "socket.timeout.ms": 5000})

    def begin_topic(self, name, partitions, replicas=3, config=None):
        """Asks for a topic; returns the client, which must be kept, and the future of the answer."""
        topic = NewTopic(name, partitions, replicas, config=config or {})
        self.replicas[name] = replicas
        admin = self.admin()
        return admin, admin.create_topics([topic], request_timeout=CREATE_LIMIT_S)[name]

    def create_topic(self, name, partitions, replicas=3, config=None):
        _admin, future = self.begin_topic(name, partitions, replicas, config)
        future.result(2 * CREATE_LIMIT_S)

    def topic(self, name):
        """Partition -> what Metadata says of it (leader, replicas, isrs)."""
        return self.admin().list_topics(name, timeout=ASK_LIMIT_S).topics[name].partitions

    def wait_whole(self, name, limit_s=60.0):
        """Each partition of topic `name` has a leader, and as many replicas in sync as it was made
        with: after a fail-over it goes on with fewer, until the node is back."""
        wanted = self.replicas[name]
        last = {}

        def whole():
            with suppress(KafkaException):
                last.update(self.topic(name))
                return all(
                    p.leader in self.nodes and len(p.isrs) == len(p.replicas) == wanted
                    for p in last.values()
                )
            return False

        def found():
            return f"{name} is whole: " + "; ".join(
                f"{p.id}: leader {p.leader} replicas {p.replicas} isr {p.isrs}"
                for p in last.values()
            )

        until(whole, found, limit_s, every_s=0.2)

    def led_by(self, name, number):
        """The partitions of topic `name` that node `number` leads."""
        return sorted(p.id for p in self.topic(name).values() if p.leader == number)

    def controller(self):
        """The number of the node that leads the metadata, as most running nodes see it."""

        def named():
            seen = [node.cluster_status()["leader"] for node in self.running()]
            return next((one for one in seen if one.isdigit() and 2 * seen.count(one) > len(seen)), "")

        return int(until(named, "a leader of the metadata", FORM_LIMIT_S, every_s=0.1))

    def coordinator(self, group):
        """The number of the node that coordinates `group`."""
        admin = self.admin()
        futures = admin.describe_consumer_groups([group], request_timeout=ASK_LIMIT_S)
        found = futures[group].result(ASK_LIMIT_S)
        assert found.state != ConsumerGroupState.DEAD, f"{group} is not known"
        return found.coordinator.id
