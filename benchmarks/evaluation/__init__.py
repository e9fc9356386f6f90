"""What presets cost by the measures of the evaluation."""
