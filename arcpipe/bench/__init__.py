"""Measurements that a user can repeat: `arcpipe bench`. Import the submodules."""
