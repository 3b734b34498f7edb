#pragma once
// The half of a report that looks at steps one by one: their charges, their goodput, and those that
// a failure could still undo.
#include "runtime/goodput/report.h"

namespace muster::runtime {

// Fills in report->steps, uncharged, steps_at_risk and at_risk from its attribution, and an error
// or a note for what step is not within (0, 1]. Above 1 it is an error where the peak is a device's
// limit or as given: then peak, FLOPs or time are wrong. A measured peak is itself uncertain, and a
// step may be a little faster than the products that were timed: a note, and the number stays.
void SetStepsGoodput(RunReport* report);

}  // namespace muster::runtime
