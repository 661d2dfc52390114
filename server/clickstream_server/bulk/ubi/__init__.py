"""Search logs in the OpenSearch UBI format: their lines, what they mean, and the items of an import that they make."""
