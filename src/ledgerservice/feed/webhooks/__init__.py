"""Webhooks by the conventions of Standard Webhooks: events as signed requests to endpoints."""
