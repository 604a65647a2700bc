"""DeepSpeed's hooks find the parameters that they found before, without walking through the modules again."""

from deepspeed.runtime.zero import parameter_offload, partition_parameters, partitioned_param_coordinator
from torch import nn

from lavie.training.light_hooks import lighten_hooks


class Module(nn.Sequential):
    """A module as DeepSpeed sees it, which reads a parameter of another one if it is given one."""

    read: tuple = ()
    walks = 0

    def ds_external_parameters(self):
        return self.read

    def named_parameters(self, *args, **kwargs):
        self.walks += 1
        return super().named_parameters(*args, **kwargs)


def test_parameters_are_listed_once_and_those_of_others_anew(capsys):
    module, other = Module(nn.Linear(2, 3), nn.Linear(3, 1)), nn.Parameter()
    before = {deep: list(partitioned_param_coordinator.iter_params(module, deep)) for deep in (False, True)}
    lighten_hooks()
    lighten_hooks()
    listed = partitioned_param_coordinator.iter_params
    assert parameter_offload.iter_params is listed
    walks = module.walks
    for _ in range(3):
        for deep in (True, False):
            assert [id(p) for p in listed(module, deep)] == [id(p) for p in before[deep]]
    assert module.walks == walks + 2
    module.read = ((1, other),)
    assert listed(module, True)[-1] is other and len(listed(module, True)) == 5
    assert len(listed(module, True)) == 5, "the kept list has not grown"

    partition_parameters.print_rank_0("never shown")
    assert capsys.readouterr().out == ""
