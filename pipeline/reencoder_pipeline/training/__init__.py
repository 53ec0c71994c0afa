"""What the trainings of all three floors share."""
