"""Where a curation works: the section `engine` of its YAML."""

from typing import Literal

from pydantic import Field, model_validator

from .base import Strict


class EngineConfig(Strict):
    """Where units are worked on. It changes no value of any column."""

    engine: Literal["local", "ray", "mpi"] = "local"
    """local: a pool of processes on this machine. ray: a Ray cluster (`lavie[ray]`). mpi: the ranks that mpirun or srun
    has started (`lavie[mpi]`)."""
    workers: int | None = Field(None, ge=1)
    """Processes side by side, with local and with a Ray of this machine alone. Default: null, one for each core."""
    address: str | None = None
    """With ray: the address of a running cluster, host:port, or auto for the one that this node is in. Default: null, a
    Ray of this machine alone, which listens on the loopback interface."""

    @model_validator(mode="after")
    def _check(self) -> "EngineConfig":
        """Check that nothing is set for another engine."""
        if self.address and self.engine != "ray":
            raise ValueError(f"address is that of a Ray cluster, and engine is {self.engine}: set engine to ray")
        if self.workers and (self.engine == "mpi" or self.address):
            raise ValueError("workers is for this machine alone: the ranks or nodes say how many there are")
        return self
