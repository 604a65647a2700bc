"""What is said of the host's times: by hand. The times themselves are the machine's, and no test's."""

from lavie.training.planning.hardware import Host
from lavie.training.planning.host import HostTime, MeasuredHost, host_lines


def test_predictions_stand_beside_measurements():
    times = [HostTime("PyTorch", 110, 100), HostTime("ZeRO-3", 150, 200)]
    _, costs, *lines = host_lines(MeasuredHost(Host(10.0, (1.0, 2.0, 2.0, 3.0)), times))
    assert costs == "a launch 10 us; a parameter 2 us under ZeRO-2, 3 us under ZeRO-3"
    assert lines == [
        "a micro-batch of the run's depth, PyTorch: 100 ms, predicted 110 (+10%)",
        "a micro-batch of the run's depth, ZeRO-3: 200 ms, predicted 150 (-25%)",
    ]
