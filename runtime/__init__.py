"""Shared by all hosts of ISA: the contract of a call, schedule, live settings, monitoring, reports. Needs no host."""
