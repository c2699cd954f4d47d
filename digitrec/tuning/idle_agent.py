"""Stand in for an agent of Ray that would have no work.

    python idle_agent.py NAME,NAME --session-dir=DIRECTORY --node-id=ID [further options of Ray]

Ray waits until each agent has written its ports. This program writes at once, under each of these
names, that there is no port, and ends with the raylet that started it.
"""

import os
import sys

NO_PORT = "-1"

names, *further = sys.argv[1:]
options = dict(each.split("=", 1) for each in further if "=" in each)
for name in names.split(","):
    path = os.path.join(options["--session-dir"], f"{name}_{options['--node-id']}")
    with open(f"{path}.tmp", "w") as file:
        file.write(NO_PORT)
    os.replace(f"{path}.tmp", path)  # whole at once, since the raylet looks for it all the time
sys.stdin.read()  # the raylet never writes; its end ends this
