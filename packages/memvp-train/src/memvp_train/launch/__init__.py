"""Launching workers: on Ray, or as processes on this machine; maps over items, and who is still alive.

resources: what is asked for beside what there is
cluster: what the connected Ray has, and what is waited for
head: whether Ray's head is alive
session: connect to a Ray or start one
workers: a group of training workers that goes on when some die
maps: tasks over shards, actors over items
actor_pool: which actor gets the next item
heartbeat: signs of life of workers
supervision: when a group is ended or given up
ray_snapshot: Ray's own record of checkpoints, kept sound
environment: variables and log levels for a block
processes: processes without Ray, and how many
process_group: training in them
process_maps: items over them
cores: how many cores this process has, and torch on all of them
checks: a launch that cannot start here is refused
"""
