"""What an AI-RAN network costs and earns: scenarios, the model, calibration, reports."""
