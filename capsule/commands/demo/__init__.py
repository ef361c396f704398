"""`capsule demo`: a key rotation from request to proof, with real services, told step by step.

Rules kept: the installed command does the work, in processes of its own, exactly as a person would type
it; every step is checked against something the step cannot influence (the upstream, stock git, stock
ssh-keygen); every process ends with this one, however it ends. Called by capsule.cli.run.
"""

from __future__ import annotations

from capsule.commands.demo.play import Story, play
from capsule.commands.demo.stage import Narrator, SshServer

__all__ = ["Narrator", "SshServer", "Story", "play"]
