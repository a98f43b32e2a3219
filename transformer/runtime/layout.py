"""The layout of a run over devices, for training, scoring and `--mode=describe`.

Nothing here queries devices, so a layout can be made for devices of another machine.
"""

import dataclasses
import math
from typing import Literal

from transformer.config import Parallel
from transformer.errors import UserError, counted
from transformer.validation import check_parallel


@dataclasses.dataclass(frozen=True)
class Layout:
    """Steps run with "jit" on the first device, with "pmap" and a copy of the parameters on each, or with jit over a "mesh".

    `devices`: their number. `data`, `fsdp`, `tensor`: the sizes of the axes of a mesh; a layout without a mesh has only copies,
    `data` of them.
    """

    mode: Literal["jit", "pmap", "mesh"]
    devices: int
    data: int
    fsdp: int = 1
    tensor: int = 1

    @property
    def sizes(self) -> dict[str, int]:
        """Each axis of `sharding.MESH`, by name."""
        return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}

    @property
    def used(self) -> int:
        """The number of devices that are used."""
        return math.prod(self.sizes.values())

    @property
    def row_parts(self) -> int:
        """The number of parts of a batch's rows: devices, or on a mesh groups of devices with the same rows."""
        return self.data * self.fsdp

    def describe(self, platform: str = "") -> str:
        """A text such as "8 cpu devices: data 2 x fsdp 2 x tensor 2"."""
        devices = counted(self.devices, f"{platform} device".strip())
        if self.mode == "mesh":
            return f"{devices}: {' x '.join(f'{name} {size}' for name, size in self.sizes.items())}"
        if self.mode == "pmap":
            return f"{devices}: a copy of the parameters on each"
        return devices if self.devices == 1 else f"{devices}, of which config.parallel.mode=jit uses the first"


def choose(parallel: Parallel, devices: int, processes: int = 1) -> Layout:
    """The layout of a run on this number of devices, over all processes.

    `config.parallel.mode` auto: a mesh if parameters are sharded or there are several processes; else pmap if there are several
    devices. UserError: the mode does not use the other settings, or they do not fit the devices.
    """
    check_parallel(parallel)
    cut = parallel.fsdp * parallel.tensor
    mode = parallel.mode
    if mode == "auto":
        mode = "mesh" if processes > 1 or cut > 1 else "pmap" if devices > 1 else "jit"
    if mode == "mesh":
        if devices % cut:
            raise UserError(
                f"config.parallel.fsdp {parallel.fsdp} x config.parallel.tensor {parallel.tensor} needs {cut} devices or a "
                f"multiple of them, and this run has {counted(devices, 'device')}; change one of the three"
            )
        return Layout("mesh", devices, devices // cut, parallel.fsdp, parallel.tensor)
    if processes > 1:
        raise UserError(f"config.parallel.mode {mode} is for one process, and this run has {processes}; set it to mesh or auto")
    return Layout(mode, devices, 1 if mode == "jit" else devices)
