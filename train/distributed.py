"""Training in several processes, on one machine or many: each learns from its share of every batch.

`torchrun` starts the processes and tells each its number in environment variables; torch's
DistributedDataParallel averages their gradients. What is seen, how often and at which rate is that of one
process whose batches are as large as all of theirs together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

_PATIENCE = timedelta(hours=6)
"""One process may encode all photos, or validate, while the others wait."""


@dataclass(frozen=True)
class World:
    """All processes of a run, seen from one of them."""

    rank: int = 0
    """Its number among all, from 0."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number on this machine; it uses the GPU with this number."""
    local_size: int = 1
    """How many there are on this machine."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that validates, writes and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until all are here."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """One process of each machine goes first, so that the others find what it has cached."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def total(self, value: float, device: torch.device) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return float(summed)

    def from_leader(self, value: T | None) -> T:
        """What the leader has, for all; the others' values do not count."""
        shared = [value]
        if self.size > 1:
            distributed.broadcast_object_list(shared, src=0)
        (found,) = shared
        if found is None:
            raise ValueError("the leader has nothing to share")
        return found

    def averaging(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, whose gradients are averaged over all processes at each backward pass."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        devices = [device] if device.type == "cuda" else None
        # A stage need not use all that could learn: what is not used must not be waited for.
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """The world that torchrun made, or one process alone where it did not.

    Args:
        device: as in a recipe; on GPUs the processes talk by NCCL, else by gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        yield World(distributed.get_rank(), size, local_rank, local_size)
    finally:
        distributed.destroy_process_group()
