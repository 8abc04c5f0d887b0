"""Generated and replayed load: RAN traffic of cells over a day, LLM requests of tenants."""
