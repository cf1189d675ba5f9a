"""The result function: what follows an end at the forge. A refused result again, and the comment on an issue."""
