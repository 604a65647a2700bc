"""What is said of the host's times: by hand. The times themselves are the machine's, and no test's."""

from lavie.config.load import load_config
from lavie.config.shipped import find_config
from lavie.training.planning import host
from lavie.training.planning.hardware import Host
from lavie.training.planning.host import HostTime, MeasuredHost, host_lines


def test_predictions_stand_beside_measurements():
    times = [HostTime("PyTorch", 110, 100), HostTime("ZeRO-0", 110, 125), HostTime("ZeRO-3", 150, 200)]
    _, costs, *lines = host_lines(MeasuredHost(Host(10.0, (1.0, 2.0, 2.0, 3.0)), times))
    assert costs == "a launch 10 us; a parameter 2 us under ZeRO-2, 3 us under ZeRO-3"
    plain = "DeepSpeed's engine without ZeRO"
    assert lines == [
        f"a micro-batch of the run's depth, PyTorch: 100 ms, predicted 110 (+10%), 0.80x of {plain}",
        f"a micro-batch of the run's depth, ZeRO-0: 125 ms, predicted 110 (-12%), 1.00x of {plain}",
        f"a micro-batch of the run's depth, ZeRO-3: 200 ms, predicted 150 (-25%), 1.60x of {plain}",
    ]


def test_calls_take_turns_and_the_fastest_counts(monkeypatch):
    """Each turn has a run that is not timed before the one that is."""
    now, turns = [0.0], []

    def call(name, seconds):
        def run():
            turns.append(name)
            now[0] += next(seconds)

        return run

    monkeypatch.setattr(host.time, "process_time", lambda: now[0])
    monkeypatch.setattr(host, "WARM", 1)
    monkeypatch.setattr(host, "ROUNDS", 2)
    assert host.fastest({"a": call("a", iter([9, 1, 9, 5, 9, 4])), "b": call("b", iter([9, 1, 9, 2, 9, 3]))}) == {
        "a": 4,
        "b": 2,
    }
    assert turns == ["a", "a", "b", "b"] * 3


def test_the_narrow_network_has_the_depth_and_the_ratios_of_the_runs():
    config = load_config(find_config("configs/base.yaml"))
    narrow = host._narrow(config, config.model.layers_per_block)
    assert narrow.model.block_out_channels == (8, 16, 32, 32)
    assert host._trained(narrow) == host._trained(config) == 814
