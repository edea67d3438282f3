"""From a schedule to the place of every byte: lifetimes, sharing, offsets, and their proof."""

from pockengine.plan.planner import EntryPlan, Plan, Slot, check_budget, plan
from pockengine.plan.verify import verify_plan

__all__ = ["EntryPlan", "Plan", "Slot", "check_budget", "plan", "verify_plan"]
