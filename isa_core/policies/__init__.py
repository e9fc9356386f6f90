"""Routers, one a file. Each turns coarse scores into a RoutingPlan, and knows nothing of what computes the attention."""
