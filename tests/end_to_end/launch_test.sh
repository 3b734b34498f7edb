#!/usr/bin/env bash
# tests/drills/launch_drill in short: real ranks under muster launch, and what may happen to them. Its bars
# are the drill's own, with room for two cores that do other things beside: a crash 1 + 2 s, a hang 5 + 1 + 2
# s, ranks gone 2 + 2 s, the next step's end 20 s after a crash (the bar is 10 s; at a load of 20 it was 2.4 s).
# Sanitizers multiply them.
# Usage: launch_test.sh MUSTER (from the root of the repository)
set -euo pipefail
slow=${MUSTER_TEST_SLOWNESS:-1}
exec tests/drills/launch_drill "$1" --ranks 2 --steps 40 --restart-bar $((20 * slow)) --slack $((2 * slow))
