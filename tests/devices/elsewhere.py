"""The real agent, on what says that it is another machine: ``python elsewhere.py BOOT_ID agent.pyz``."""

import sys

if __name__ == "__main__":
    boot_id, agent, *words = sys.argv[1:]
    sys.path.insert(0, agent)
    from robustdeploy.onboard import __main__ as real
    from robustdeploy.onboard import service

    read_sensors = service.read_sensors
    service.read_sensors = lambda *given: {**read_sensors(*given), "boot_id": boot_id}
    sys.exit(real.main(words))
