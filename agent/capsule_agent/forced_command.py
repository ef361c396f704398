"""What sshd starts for every connection: `python3 -I -S …/forced_command.py stdio --socket PATH`.

The same as `capsule-agent stdio --socket PATH`, without what a start costs elsewhere: `-S` leaves out the
look through all that is installed, and `-I` lets no variable of the environment, which a client may send,
and no module of the user's own folder in. Rules kept: a stream that the agent itself reads (pump) needs no
other module; everything else is stdio's. Called by sshd alone; stdio prints the line.
"""

import os
import sys

# Last, so that nothing that is installed can take the place of a module of Python's own.
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from capsule_agent.pump import pump

if __name__ == "__main__":
    if sys.argv[1:3] == ["stdio", "--socket"] and len(sys.argv) == 4 and pump(sys.argv[3]):
        os._exit(0)  # nothing is left to be flushed or tidied up
    from capsule_agent import stdio

    sys.exit(stdio.main(sys.argv[1:]))
