#!/usr/bin/env bash
# The short form of tests/drills/launch_drill: real ranks under muster launch, one of them killed, a
# job that is asked to stop, a supervisor that is killed; and one stopped rank without a supervisor.
# The bars on time are for machines that do other things beside.
# Usage: launch_test.sh MUSTER (from the root of the repository)
set -euo pipefail
exec tests/drills/launch_drill "$1" --ranks 2 --restart-bar 60 --slack 5 \
  --only crash --only preempted --only supervisor_dies --only hang_alone
