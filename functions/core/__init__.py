"""Rules that several functions share: repositories, leases, fences, schedules, addresses."""
