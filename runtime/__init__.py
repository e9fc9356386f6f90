"""What every host of ISA shares: the contract of a call, the schedule, live settings, monitoring, reports. Needs no host."""
