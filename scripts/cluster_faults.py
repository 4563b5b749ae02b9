#!/usr/bin/env python3
"""Plays what networks and hosts do to a cluster, on real nodes in network namespaces; a model that knows all spans is
the judge.

    cluster_faults.py [--short | --long] [--only G03,G08] [--seed N] [--binary …] [--bench …] [--results FILE]
    cluster_faults.py --list
    cluster_faults.py --table FILE      the rows of src/manual/gossip_faults.md from such results

Each node has a network namespace with one link to a bridge; nft loses, repeats and cuts there what nodes send each
other, and what a relay delays goes another way. Clients and the judge sit at the bridge, which nothing disturbs. Needs
root, ip and nft; without them nothing is played and a word says so. --short (default) takes twenty minutes.

The script moves into namespaces of its own first: links, rules and names in them are nobody else's, and go with it
whatever ends it, as the nodes do. Exit code 1 when a promise was broken.
"""

from cluster_faults import attack, cuts, hosts, keys, lives, loss, mixed, network  # noqa: F401
from faults import runner

if __name__ == "__main__":
    runner.main(__doc__, "cluster_faults", network.isolate)
