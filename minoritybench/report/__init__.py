"""What people look at: galleries, sheets and leaderboards."""
