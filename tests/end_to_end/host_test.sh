#!/usr/bin/env bash
# tests/drills/host_drill in short: muster launch over several hosts, which are namespaces of this one. Hosts
# are lost after 3 s in place of 5, to save time; the bars have 3 s of room for two cores that do other things
# beside. Ends with 77, skipped, where namespaces cannot be made.
# Usage: host_test.sh MUSTER (from the root of the repository)
set -euo pipefail
slow=${MUSTER_TEST_SLOWNESS:-1}
exec tests/drills/host_drill "$1" --deadline $((2 + slow)) --slack $((3 * slow))
