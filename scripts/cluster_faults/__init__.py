"""What networks and hosts do to a cluster; see cluster_faults.py."""
