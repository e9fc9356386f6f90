"""The steps of ISA on the Triton kernels: plan -> attend (sparse group, dense group) -> residual."""
