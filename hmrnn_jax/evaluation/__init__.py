"""What is shown of a trained run: functions that take a `run.Run` and return a `report.Report`.

They write the files that they name, and print nothing. `text` is for language models,
`syntax` for those of words, `sequences` for real-valued sequences, `classification` for what is
classified.
"""
