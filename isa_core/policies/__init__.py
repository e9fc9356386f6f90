"""Routers, one per file. Each turns coarse scores into a RoutingPlan and does not depend on kernels or backends."""
