"""Sequential recommenders: SASRec, BERT4Rec and ReaRec, for GSISR rows and for item sequences."""
