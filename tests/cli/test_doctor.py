def test_a_target_is_looked_at_down_to_its_sensors(command, tmp_path):
    done = command(tmp_path, "doctor", "--target", "host-cpu", "--json")
    assert done.code == 0, done.err
    found = {finding["what"]: finding for finding in done.document}
    assert found["onnxruntime"]["ok"]
    assert found["version"]["found"] == "within the target's bounds"
    assert "load_1m" in found["sensors"]["found"]
