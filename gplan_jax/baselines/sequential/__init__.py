"""SASRec, BERT4Rec and ReaRec over GSISR rows; on fitting/ and rows/."""
