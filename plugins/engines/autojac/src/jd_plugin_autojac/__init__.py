"""Jacobians by reverse mode, batched with vmap or one by one."""
